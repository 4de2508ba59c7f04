"""What is collected."""

from diffprof.model.analyzer import Run, Sections


def weigh(run: Run) -> Sections:
    """The components with at least as many parameters as were asked for."""
    least = run.settings.get("least") or 1
    counts = {
        name: sum(each.numel() for each in part.parameters())
        for name, part in run.call.pipe.components.items()
        if hasattr(part, "parameters")
    }
    rows = [{"component": name, "parameters": n} for name, n in counts.items() if n >= least]
    return {"toy_weights": sorted(rows, key=lambda row: -row["parameters"])}
