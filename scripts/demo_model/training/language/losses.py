"""Losses of the language phases: answers, supervised attention and image numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from scripts.demo_model.network.architecture import (
    SUPERVISED_HEADS,
    TOKENS_PER_TILE,
)
from scripts.demo_model.network.visual_code import PLACE_TOKENS
from scripts.demo_model.training.language.batches import TextBatch
from scripts.demo_model.training.language.sequences import IGNORE


def hidden_states(
    model: InternVLForConditionalGeneration, batch: TextBatch
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the language model's last hidden states, and the input of every layer."""
    embedded = model.get_input_embeddings()(batch.ids)
    is_image = (batch.ids == model.config.image_token_id)[..., None]
    if len(batch.features):
        embedded = embedded.masked_scatter(is_image, batch.features.to(embedded.dtype))
    output = model.model.language_model(
        inputs_embeds=embedded,
        attention_mask=batch.mask,
        position_ids=batch.position,
        output_hidden_states=True,
        use_cache=False,
    )
    return output.last_hidden_state, output.hidden_states


def answer_loss(
    model: InternVLForConditionalGeneration, hidden: Tensor, batch: TextBatch
) -> Tensor:
    """Cross-entropy of the answers' tokens."""
    wanted = batch.labels != IGNORE
    logits = model.lm_head(hidden[wanted]).float()
    return F.cross_entropy(logits, batch.labels[wanted])


def number_loss(read_out: nn.Linear, hidden: Tensor, batch: TextBatch) -> Tensor:
    """Cross-entropy of the number of the image that a visual token belongs to.

    Nothing in the token itself reveals the number; only the label before the image does.

    Args:
        read_out: Linear layer to the logits of the image number.
        hidden: (n, length, width), input of the layer at which the number must be known.
        batch: The batch; only sequences with several images count, and no more than the layer tells apart.
    """
    counts = [len(s.image_ends) for s in batch.sequences]
    number = torch.cat([torch.arange(count) for count in counts])
    most = read_out.out_features
    several = torch.cat([torch.full((count,), 1 < count <= most) for count in counts])
    if not several.any():
        return hidden.sum() * 0
    rows, ends = batch.ends[several].unbind(1)
    tokens = ends[:, None] - TOKENS_PER_TILE + torch.tensor(PLACE_TOKENS)
    logits = read_out(hidden[rows[:, None], tokens].float())
    wanted = number[several][:, None].expand(-1, len(PLACE_TOKENS))
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())


def attention_loss(
    model: InternVLForConditionalGeneration, layer_inputs: tuple[Tensor, ...], batch: TextBatch
) -> Tensor:
    """Cross-entropy of the supervised heads' attention, averaged over each layer's heads."""
    total = layer_inputs[0].sum() * 0.0
    decoder = model.model.language_model
    for layer, heads in SUPERVISED_HEADS.items():
        targets = batch.targets[batch.targets[:, 0] == layer]
        if not len(targets):
            continue
        _, rows, tokens, attended = targets.unbind(1)
        states = decoder.layers[layer].input_layernorm(layer_inputs[layer])
        rotary = decoder.rotary_emb(states, batch.position)
        scores = _attention_scores(decoder.layers[layer].self_attn, states, rotary, (rows, tokens))
        mask = batch.mask[rows, 0, tokens]
        for head in heads:
            total = total + F.cross_entropy(scores(head) + mask, attended) / len(heads)
    return total


def _attention_scores(
    attention: nn.Module,
    states: Tensor,
    rotary: tuple[Tensor, Tensor],
    query_index: tuple[Tensor, Tensor],
) -> Callable[[int], Tensor]:
    """Return a function from a head to its scores (m, length) for m query tokens.

    Args:
        attention: A Qwen2 attention module.
        states: (n, length, width), its input.
        rotary: Cosines and sines of the positions, (n, length, head width) each.
        query_index: Row and index of every query token.
    """
    (cos, sin), (rows, _) = rotary, query_index
    width = attention.head_dim
    queries = attention.q_proj(states[query_index]).unflatten(-1, (-1, width))
    keys = attention.k_proj(states).unflatten(-1, (-1, width))

    def scores(head: int) -> Tensor:
        query = _rotate(queries[:, head], cos[query_index], sin[query_index])
        key = _rotate(keys[:, :, head // attention.num_key_value_groups], cos, sin)
        return torch.einsum("nc,nlc->nl", query.float(), key.float()[rows]) * width**-0.5

    return scores


def _rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embeddings."""
    half = vectors.shape[-1] // 2
    turned = torch.cat([-vectors[..., half:], vectors[..., :half]], dim=-1)
    return vectors * cos + turned * sin
