"""The same work many times: sweeps over settings, surveys over pipelines, stores of many traces."""
