"""Fields of config.json that no architecture here reads: those that say nothing about what a model computes, and those that
change what others compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmcore.errors import Error

# Where a model comes from, how it was trained and how others run it; heads for other tasks; what generation starts from.
_ORIGIN = (
    "model_type architectures auto_map transformers_version transformers.js_config _name_or_path name_or_path _commit_hash "
    "dtype torch_dtype _attn_implementation _attn_implementation_internal attn_implementation _flash_attn_2_enabled "
    "use_flash_attn use_flash_attention_2 use_cache cache_implementation pretraining_tp gradient_checkpointing "
    "chunk_size_feed_forward return_dict output_hidden_states output_attentions torchscript use_return_dict "
    "tokenizer_class prefix unsloth_version unsloth_fixed is_llama_config _experts_implementation model_name dataset license"
)
_TRAINING = (
    "initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout attn_dropout dropout "
    "classifier_dropout router_aux_loss_coef output_router_logits router_jitter_noise aux_loss_alpha "
    "embedding_dropout ffn_dropout max_window_layers reorder_and_upcast_attn"
)
_TASKS = (
    "id2label label2id num_labels problem_type finetuning_task task_specific_params summary_type summary_use_proj "
    "summary_activation summary_proj_to_labels summary_first_dropout predict_special_tokens"
)
_GENERATION = (
    "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id "
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p "
    "typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "num_return_sequences output_scores return_dict_in_generate exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens remove_invalid_values"
)
# Of the parts of multimodal models that are left out, with a note of their tensors.
_OTHER_PARTS = (
    "vision_config audio_config image_token_id video_token_id audio_token_id vision_start_token_id vision_end_token_id "
    "vision_token_id image_token_index video_token_index boi_token_index eoi_token_index mm_tokens_per_image "
    "mrope_section use_mrope"
)
NO_MATTER = frozenset(f"{_ORIGIN} {_TRAINING} {_TASKS} {_GENERATION} {_OTHER_PARTS}".split())

# What other architectures compute by, and the values that change nothing. A model that is saved as another needs them.
FOREIGN: Mapping[str, tuple] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_layers": ([],),
    "clip_qkv": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "embedding_multiplier": (1,),
    "attention_multiplier": (),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "scale_emb": (1,),
    "scale_depth": (),
    "dim_model_base": (),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "use_mup": (False,),
    "alibi": (False,),
    "position_embedding_type": ("rope", "rotary", "absolute"),
    "multi_query": (False,),
    "parallel_attn": (False,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0,),
    "kv_lora_rank": (0,),
    "q_lora_rank": (0,),
    "attention_chunk_size": (),
    "use_bidirectional_attention": (False,),
    "attn_temperature_tuning": (False, 0),
    "no_rope_layers": ([],),
    "linear_attn_config": (),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "qkv_bias": (False,),
    "use_bias": (False,),
    "bias": (False,),
    "lm_head_bias": (False,),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
    "rope_interleaved": (False,),
    "rope_interleave": (False,),
}


def check_foreign(config: Mapping, known: Iterable[str], model_type: str) -> None:
    """Raise ValueError for a field that changes what another architecture computes and that this one does not know."""
    for name in sorted(FOREIGN.keys() - set(known)):
        value = config.get(name)
        if value is not None and value not in FOREIGN[name]:
            plain = " or ".join(map(repr, (None, *FOREIGN[name])))
            raise Error("config.json", expected=f"{name} {plain} for {model_type}", got=f"{value!r:.60}")


def unknown(config: Mapping, known: Iterable[str]) -> list[str]:
    """Return the fields that say something and are not known at all."""
    rest = config.keys() - set(known) - NO_MATTER - FOREIGN.keys()
    return sorted(
        name for name in rest if config[name] not in (None, False, 0, "", [], {}) and not name.startswith("_")
    )
