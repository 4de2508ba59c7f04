from __future__ import annotations

import torch

from diffprof.targets.tokenizer import StandInTokenizer

CLIP = {
    "added_tokens_decoder": {"49406": {"content": "<|startoftext|>"}, "49407": {"content": "<|endoftext|>"}},
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "model_max_length": 77,
    "pad_token": "<|endoftext|>",
}
ENCODER = {"vocab_size": 49408, "max_position_embeddings": 77}


def test_ids_are_framed_and_padded_as_clip_does() -> None:
    tokens = StandInTokenizer(CLIP, ENCODER)(
        "A cat, a cat", padding="max_length", max_length=77, return_tensors="pt"
    )
    ids = tokens.input_ids
    assert ids.shape == tokens.attention_mask.shape == (1, 77)
    row = ids[0].tolist()
    assert row[0] == 49406
    assert row[6:] == [49407] * 71
    assert row[1:3] == row[4:6]
    assert all(0 < index < 49406 for index in row[1:6])
    assert tokens.attention_mask.sum() == 7


def test_the_second_encoder_pads_with_its_own_sign() -> None:
    bigg = {
        **CLIP,
        "pad_token": "!",
        "added_tokens_decoder": {"0": {"content": "!"}, **CLIP["added_tokens_decoder"]},
    }
    row = (
        StandInTokenizer(bigg, ENCODER)(["a"], padding="max_length", return_tensors="pt")
        .input_ids[0]
        .tolist()
    )
    assert row == [49406, row[1], 49407] + [0] * 74


def test_lengths_follow_the_text_and_the_limit() -> None:
    tokenizer = StandInTokenizer(CLIP, ENCODER)
    assert tokenizer("word " * 200, padding="longest", return_tensors="pt").input_ids.shape == (1, 202)
    cut = tokenizer("word " * 200, truncation=True, max_length=77).input_ids
    assert len(cut) == 77
    assert cut[-1] == 49407
    both = tokenizer(["a b c", "a"], padding=True, return_tensors="pt")
    assert both.input_ids.shape == (2, 5)
    assert torch.equal(both.attention_mask.sum(1), torch.tensor([5, 3]))


def test_words_come_back_and_are_never_special() -> None:
    tokenizer = StandInTokenizer(
        {**CLIP, "added_tokens_decoder": {}}, {"vocab_size": 8, "bos_token_id": 6, "eos_token_id": 7}
    )
    words = [f"w{n}" for n in range(50)]
    ids = tokenizer.convert_tokens_to_ids(words)
    assert set(ids) <= set(range(1, 6))
    wide = StandInTokenizer(CLIP, ENCODER)
    row = wide("a red cat")["input_ids"]
    assert wide.decode(row, skip_special_tokens=True) == "a red cat"
    assert wide.batch_decode([row]) == ["<|startoftext|> a red cat <|endoftext|>"]


def test_a_text_without_words_and_a_tokenizer_without_settings_work() -> None:
    assert StandInTokenizer(CLIP, ENCODER)("")["input_ids"] == [49406, 49407]
    plain = StandInTokenizer({}, {"vocab_size": 100})
    assert plain.model_max_length == 512
    assert plain([""], padding="max_length", max_length=4, return_tensors="pt").input_ids.tolist() == [
        [0] * 4
    ]


def test_a_line_s_end_is_a_token_of_tokenizers_over_bytes_only() -> None:
    def length(cls: str) -> int:
        return len(StandInTokenizer({"tokenizer_class": cls})("<|im_start|>user\na cat\n").input_ids)

    assert (length("Qwen2Tokenizer"), length("T5Tokenizer")) == (6, 4)


def test_padding_before_the_words_has_their_first_position() -> None:
    names = ["input_ids", "attention_mask", "position_ids"]
    tokenizer = StandInTokenizer({"padding_side": "left", "model_input_names": names})
    tokens = tokenizer("a cat", padding="max_length", max_length=5, return_tensors="pt")
    assert tokens.attention_mask.tolist() == [[0, 0, 0, 1, 1]]
    assert tokens.position_ids.tolist() == [[0, 0, 0, 0, 1]]
    assert tokenizer("a cat").position_ids == [0, 1]
