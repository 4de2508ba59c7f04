"""A real tokenizer with a vocabulary made on the spot: every byte is a token, nothing is ever unknown."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<pad>",
    "</s>",
    "<s>",
    "<unk>",
    "<mask>",
    "<image>",
    "<video>",
    "<vision>",
    "</vision>",
    "<cls>",
    "<sep>",
)
PAD, EOS, BOS, UNK = range(4)
VOCABULARY = {
    token: index for index, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))
}
VOCABULARY_SIZE = 320
"""Embedding rows to give an encoder: the vocabulary, rounded up, with room for tokens a pipeline adds."""

CHAT = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"


def tokenizer(
    max_length: int = 77, *, bos: bool = False, eos: bool = True, **more: object
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; ``bos``/``eos`` frame each text as CLIP (both), T5 (eos) or Llama (bos) do."""
    core = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    frame = ["<s>"] * bos + ["$A"] + ["</s>"] * eos
    core.post_processor = processors.TemplateProcessing(
        single=" ".join(frame), special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        mask_token="<mask>",
        cls_token="<cls>",
        sep_token="<sep>",
        **more,
    )
    made.chat_template = CHAT
    return made


def clip_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer(77, bos=True)
