"""A stand-in for a tokenizer whose vocabulary files are not there.

It yields ids of the right count, range and frame (begin, end, padding) for any text, by hashing words. The
ids mean nothing: shapes and control flow are those of the real tokenizer, pictures are not.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

WORD = re.compile(r"<\|?\w+\|?>|\w+|[^\w\s]")
WORD_OR_NEWLINE = re.compile(WORD.pattern + r"|\n+")

KEEP_NEWLINES = ("Qwen", "Llama", "GPT2", "PreTrainedTokenizerFast")
"""Parts of class names of tokenizers over bytes, for which a line's end is a token."""


class StandInTokenizer:
    """Tokenizer by word hash. config: the published `tokenizer_config.json`; encoder: the configuration of
    the text encoder it feeds, for the vocabulary size and the ids that `config` does not give."""

    is_stand_in = "made-up token ids: no vocabulary files"
    is_fast = False

    def __init__(self, config: Mapping[str, Any], encoder: Mapping[str, Any] | None = None) -> None:
        encoder = encoder or {}
        self.config = dict(config)
        self.padding_side = str(config.get("padding_side") or "right")
        self.vocab_size = int(encoder.get("vocab_size") or 32000)
        limit = min(
            int(config.get("model_max_length") or 10**9), int(encoder.get("max_position_embeddings") or 10**9)
        )
        self.model_max_length = limit if limit < 10**6 else 512
        self.added_tokens_encoder = {
            str(_content(token)): int(index)
            for index, token in (config.get("added_tokens_decoder") or {}).items()
        }
        self.bos_token, self.bos_token_id = self._special("bos", encoder)
        self.eos_token, self.eos_token_id = self._special("eos", encoder)
        self.pad_token, self.pad_token_id = self._special("pad", encoder)
        if self.pad_token_id is None:
            self.pad_token, self.pad_token_id = self.eos_token, self.eos_token_id or 0
        self.unk_token, self.unk_token_id = self._special("unk", encoder)
        self._words: dict[int, str] = {}

    def _special(self, role: str, encoder: Mapping[str, Any]) -> tuple[str | None, int | None]:
        token = _content(self.config.get(f"{role}_token"))
        if token is None:
            return None, None
        index = self.added_tokens_encoder.get(token, encoder.get(f"{role}_token_id"))
        return token, None if index is None else int(index)

    @property
    def added_tokens_decoder(self) -> dict[int, str]:
        return {index: token for token, index in self.added_tokens_encoder.items()}

    @property
    def all_special_ids(self) -> list[int]:
        ids = (self.bos_token_id, self.eos_token_id, self.pad_token_id)
        return [index for index in dict.fromkeys(ids) if index is not None]

    def __len__(self) -> int:
        return self.vocab_size

    def tokenize(self, text: str, **_: object) -> list[str]:
        """The words and signs of a text."""
        kept = str(self.config.get("tokenizer_class") or "").startswith(KEEP_NEWLINES)
        return (WORD_OR_NEWLINE if kept else WORD).findall(
            text.lower() if self.config.get("do_lower_case", True) else text
        )

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> object:
        return self._id(tokens) if isinstance(tokens, str) else [self._id(token) for token in tokens]

    def _id(self, token: str) -> int:
        if token in self.added_tokens_encoder:
            return self.added_tokens_encoder[token]
        for role in ("bos", "eos", "pad"):
            if token == getattr(self, f"{role}_token"):
                return int(getattr(self, f"{role}_token_id"))
        # Framing ids stand at either end of a vocabulary: words keep clear of both.
        taken = {*self.all_special_ids, *self.added_tokens_encoder.values()}
        index = 1 + zlib.crc32(token.encode()) % max(self.vocab_size - 3, 1)
        while index in taken and index > 1:
            index -= 1
        self._words[index] = token
        return index

    def encode(self, text: str, add_special_tokens: bool = True, **more: Any) -> list[int]:
        return self(text, add_special_tokens=add_special_tokens, **more)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_length: bool = False,
        return_overflowing_tokens: bool = False,
        **_: object,
    ) -> Any:
        """Ids and attention mask as transformers' tokenizers give them: lists, or tensors [batch, length]."""
        from transformers import BatchEncoding

        single = isinstance(text, str)
        texts: list[str] = [text] if isinstance(text, str) else list(text)
        limit = max_length or self.model_max_length
        rows = [self._row(item, add_special_tokens, limit if truncation else None) for item in texts]
        lengths = [len(row) for row in rows]
        width = {"max_length": limit, "longest": max(lengths), True: max(lengths)}.get(padding, 0)
        ids = [self._padded(row, self.pad_token_id, width) for row in rows]
        masks = [self._padded([1] * len(row), 0, width) for row in rows]
        data: dict[str, Any] = {"input_ids": ids, "attention_mask": masks}
        if "position_ids" in (self.config.get("model_input_names") or ()):
            data["position_ids"] = [_positions(mask) for mask in masks]
        if return_length:
            data["length"] = lengths
        if return_tensors is not None:
            data = {name: torch.tensor(value, dtype=torch.long) for name, value in data.items()}
        elif single:
            data = {name: value[0] for name, value in data.items()}
        return BatchEncoding(data)

    def _row(self, text: str, framed: bool, limit: int | None) -> list[int]:
        begin = [self.bos_token_id] if framed and self.bos_token_id is not None else []
        end = [self.eos_token_id] if framed and self.eos_token_id is not None else []
        words = [self._id(token) for token in self.tokenize(text)]
        if limit is not None:
            words = words[: max(limit - len(begin) - len(end), 0)]
        return [*begin, *words, *end]

    def _padded(self, row: list[int], value: int | None, width: int) -> list[int]:
        filling = [value or 0] * (width - len(row))
        return filling + row if self.padding_side == "left" else row + filling

    def pad(self, encoded: Mapping[str, Any], return_tensors: str | None = None, **more: object) -> object:
        from transformers import BatchEncoding

        rows = [list(row) for row in encoded["input_ids"]]
        width = max(map(len, rows))
        ids = [self._padded(row, self.pad_token_id, width) for row in rows]
        masks = [self._padded([1] * len(row), 0, width) for row in rows]
        return BatchEncoding({"input_ids": ids, "attention_mask": masks}, tensor_type=return_tensors)

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: object) -> str:
        """The words that were hashed to these ids before; `?` for others."""
        row = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        special = set(self.all_special_ids) if skip_special_tokens else set()
        names = {**self._words, **self.added_tokens_decoder}
        return " ".join(names.get(index, "?") for index in row if index not in special)

    def batch_decode(self, rows: Any, skip_special_tokens: bool = False, **_: object) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in rows]

    def apply_chat_template(self, messages: Sequence[Any], tokenize: bool = True, **more: Any) -> object:
        """The texts of the messages, one after the other."""
        if messages and not isinstance(messages[0], Mapping):
            texts = [self._chat(each) for each in messages]
            return self(texts, **more) if tokenize else texts
        text = self._chat(messages)
        return self(text, **more) if tokenize else text

    @staticmethod
    def _chat(messages: Sequence[Mapping[str, Any]]) -> str:
        parts = []
        for message in messages:
            content = message.get("content", "")
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            parts.append(f"{message.get('role', '')}\n{' '.join(texts)}")
        return "\n".join(parts)

    def __repr__(self) -> str:
        return f"StandInTokenizer(vocab_size={self.vocab_size}, model_max_length={self.model_max_length})"


def _positions(mask: Sequence[int]) -> list[int]:
    """Positions counted from the first word on; padding before it has the first one's."""
    begin = mask.index(1) if 1 in mask else 0
    return [max(place - begin, 0) for place in range(len(mask))]


def _content(token: Any) -> str | None:
    """The text of a token given as a string or as `{"content": ...}`."""
    return token.get("content") if isinstance(token, Mapping) else token
