"""Sound from text."""

from __future__ import annotations

import diffusers as df
import torch
import transformers as tf

from . import CorpusCase, case, tokens
from .parts import BETAS, PROMPT, STEPS, WIDTH, ddim, qwen3, t5, unet, vae

CALL = {"prompt": PROMPT, "num_inference_steps": STEPS}


def oobleck(latents: int) -> df.AutoencoderOobleck:
    return df.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=4,
        decoder_input_channels=latents,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )


@case("stable-audio", family="audio", denoiser="transformer")
def stable_audio() -> CorpusCase:
    net = df.StableAudioDiTModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=8,
        cross_attention_input_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
    )
    pipe = df.StableAudioPipeline(
        vae=oobleck(4),
        text_encoder=t5(),
        projection_model=df.StableAudioProjectionModel(
            text_encoder_dim=WIDTH, conditioning_dim=8, min_value=0, max_value=32
        ),
        tokenizer=tokens.tokenizer(25),
        transformer=net,
        scheduler=df.CosineDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )
    return CorpusCase(pipe, CALL | {"num_inference_steps": 3, "audio_end_in_s": 4.0, "output_type": "pt"})


def vocoder() -> tf.SpeechT5HifiGan:
    made = tf.SpeechT5HifiGan(
        tf.SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=8,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    for weight in made.parameters():  # as initialized they leave silence
        weight.data.normal_(std=0.3)
    return made


def clap() -> tf.ClapModel:
    text = {
        "vocab_size": tokens.VOCABULARY_SIZE,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "projection_dim": WIDTH,
        "pad_token_id": tokens.PAD,
    }
    audio = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "hidden_size": 32,
        "projection_dim": WIDTH,
        "patch_size": 2,
        "patch_stride": 2,
        "patch_embeds_hidden_size": 16,
    }
    return tf.ClapModel(tf.ClapConfig(text_config=text, audio_config=audio, projection_dim=WIDTH))


def mel_vae() -> df.AutoencoderKL:
    return vae(in_channels=1, out_channels=1)


@case("audioldm2", family="audio", denoiser="unet")
def audioldm2() -> CorpusCase:
    from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel

    net = AudioLDM2UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(16, 16),
        attention_head_dim=8,
    )
    gpt = tf.GPT2LMHeadModel(
        tf.GPT2Config(n_embd=WIDTH, n_head=2, n_layer=1, vocab_size=tokens.VOCABULARY_SIZE, n_positions=256)
    )
    gpt.config.max_new_tokens = 4
    pipe = df.AudioLDM2Pipeline(
        vae=mel_vae(),
        text_encoder=clap(),
        text_encoder_2=t5(),
        projection_model=AudioLDM2ProjectionModel(
            text_encoder_dim=WIDTH, text_encoder_1_dim=WIDTH, langauge_model_dim=WIDTH
        ),
        language_model=gpt,
        tokenizer=tokens.clip_tokenizer(),
        tokenizer_2=tokens.tokenizer(),
        feature_extractor=mel_features(),
        unet=net,
        scheduler=ddim(),
        vocoder=vocoder(),
    )
    # Encoding asks for Roberta's and T5's own tokenizers, which need vocabulary files.
    embeds: dict[str, object] = {}
    for sign in ("", "negative_"):
        embeds[f"{sign}prompt_embeds"] = torch.randn(1, 6, WIDTH)
        embeds[f"{sign}generated_prompt_embeds"] = torch.randn(1, 4, WIDTH)
        embeds[f"{sign}attention_mask"] = torch.ones(1, 6, dtype=torch.long)
    return CorpusCase(pipe, CALL | embeds | {"prompt": None, "audio_length_in_s": 0.016, "output_type": "pt"})


def mel_features() -> tf.ClapFeatureExtractor:
    return tf.ClapFeatureExtractor(feature_size=8, hop_length=7900)


@case("musicldm", family="audio", denoiser="unet")
def musicldm() -> CorpusCase:
    net = unet(
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    pipe = df.MusicLDMPipeline(
        vae=mel_vae(),
        text_encoder=clap(),
        tokenizer=tokens.clip_tokenizer(),
        unet=net,
        scheduler=df.DDIMScheduler(**BETAS, clip_sample=False),
        vocoder=vocoder(),
        feature_extractor=mel_features(),
    )
    # Its own encoding expects an older return type of CLAP's text features.
    embeds = {"prompt_embeds": torch.randn(1, WIDTH), "negative_prompt_embeds": torch.randn(1, WIDTH)}
    return CorpusCase(pipe, CALL | embeds | {"prompt": None, "audio_length_in_s": 0.016, "output_type": "pt"})


@case("ace-step", family="audio", denoiser="transformer")
def ace_step() -> CorpusCase:
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    heads: dict[str, object] = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_theta": 10000.0,
        "sliding_window": 16,
    }
    pooled = heads | {
        "audio_acoustic_hidden_dim": 4,
        "pool_window_size": 2,
        "num_attention_pooler_hidden_layers": 1,
    }
    pipe = df.AceStepPipeline(
        transformer=df.AceStepTransformer1DModel(
            num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4, patch_size=2, **heads
        ),
        condition_encoder=AceStepConditionEncoder(
            text_hidden_dim=WIDTH,
            timbre_hidden_dim=4,
            num_lyric_encoder_hidden_layers=1,
            num_timbre_encoder_hidden_layers=1,
            **heads,
        ),
        vae=oobleck(4),
        text_encoder=qwen3(),
        tokenizer=tokens.tokenizer(512),
        scheduler=df.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        audio_tokenizer=AceStepAudioTokenizer(
            fsq_dim=WIDTH, fsq_input_levels=[4, 4, 4], fsq_input_num_quantizers=1, **pooled
        ),
        audio_token_detokenizer=AceStepAudioTokenDetokenizer(**pooled),
    )
    return CorpusCase(
        pipe, CALL | {"lyrics": "la la", "audio_duration": 0.4, "max_text_length": 32, "output_type": "pt"}
    )
