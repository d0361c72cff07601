"""A client's upload: encode and mask its terms, all at once or a part at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from protocols.client_states import Context, MaskedTerm, Uploaded, Uploading
from protocols.discrete_gaussian import DiscreteGaussian
from protocols.errors import InputError
from protocols.frame import frame_hash, seal
from protocols.identity import SERVER
from protocols.masks import MaskStream, mask_scalars
from protocols.messages import (
    MaskedInput,
    MaskedPart,
    MaskedVector,
    PartRequest,
    VectorSpan,
    scalars_to_wire,
)
from protocols.parts import Part
from protocols.ring import CHUNK, FixedPoint, FlatVector, Packed, clip_in_place

NOISE_KEY_BYTES = 32


def on_part_request(
    context: Context, state: Uploading, _message: PartRequest
) -> tuple[Uploading | Uploaded, bytes]:
    """Upload the next part; its number was compared before."""
    return send_part(context, state)


def send_part(context: Context, state: Uploading) -> tuple[Uploading | Uploaded, bytes]:
    """Encode and mask the part that is due. The last one carries the hashes of the others.

    Raises:
        InputError: a vector of the wrong length, or a NaN or infinity (its tensor is named).
    """
    number, header = len(state.sent), _header(context, state)
    packed, outside = mask_spans(context, state.terms, state.parts[number])
    counts = {
        vector: state.clip_counts.get(vector, 0) + outside.get(vector, 0)
        for vector in sorted({*state.clip_counts, *outside})
    }
    if number + 1 < len(state.parts):
        spans = [VectorSpan(sum_id=name, packed=words) for name, words in packed.items()]
        frame = seal(MaskedPart(**header, part=number, spans=tuple(spans)), context.identity)
        sent = (*state.sent, frame_hash(frame))
        return replace(state, sent=sent, clip_counts=counts), frame
    inputs = tuple(
        MaskedVector(
            sum_id=term.sum_id,
            packed=packed[term.sum_id],
            scalars=scalars_to_wire(mask_scalars(term.masks, term.scalars)),
        )
        for term in state.terms
    )
    frame = seal(MaskedInput(**header, inputs=inputs, parts=state.sent), context.identity)
    uploaded = Uploaded(
        state.session,
        state.agreement,
        state.held_shares,
        frame_hash(frame),
        state.row,
        state.weights,
        counts,
    )
    return uploaded, frame


def _header(context: Context, state: Uploading) -> dict[str, Any]:
    return {"session": state.session.id, "sender": context.name, "recipient": SERVER}


def mask_spans(
    context: Context, terms: Sequence[MaskedTerm], part: Part
) -> tuple[dict[str, bytes], dict[str, int]]:
    """Encode and mask a part's spans, reading each vector once.

    Returns the packed words by sum, and by vector how many coordinates were clipped.

    Raises:
        InputError: see :func:`send_part`.
    """
    spans = {span.sum_id: span for span in part}
    packed, counts = {name: b"" for name in spans}, {}
    present = [term for term in terms if term.sum_id in spans and spans[term.sum_id].length]
    noise = {term.sum_id: fresh_noise(context, term.fixed_point) for term in present}
    for name in sorted({term.vector for term in present}):
        own = [term for term in present if term.vector == name]
        span = spans[own[0].sum_id]
        masked, counts[name] = mask_one_vector(
            own_vector(context, name),
            context.parameters.clip[name],
            own,
            span.start,
            span.stop,
            noise,
        )
        for term, words in zip(own, masked, strict=True):
            packed[term.sum_id] = words.to_bytes()
    return packed, counts


def fresh_noise(context: Context, fixed_point: FixedPoint) -> DiscreteGaussian | None:
    """Return a fresh stream of this client's share of the noise, None where there is none."""
    steps = fixed_point.noise_steps
    return DiscreteGaussian(context.entropy.read(NOISE_KEY_BYTES), steps) if steps else None


def own_vector(context: Context, name: str) -> FlatVector:
    """Return one of this client's vectors.

    Raises:
        InputError: it is missing or of the wrong length.
    """
    if name not in context.inputs.vectors:
        raise InputError(f"{context.name}: vector {name} is missing")
    where = f"{context.name}, {name}"
    vector = FlatVector(context.inputs.vectors[name], where)
    length = context.parameters.vector_lengths[name]
    if len(vector) != length:
        raise InputError(f"{where}: {len(vector)} coordinates, not {length}")
    return vector


def mask_one_vector(
    vector: FlatVector,
    clip: float,
    terms: Sequence[MaskedTerm],
    start: int,
    stop: int,
    noise: Mapping[str, DiscreteGaussian | None],
) -> tuple[list[Packed], int]:
    """Check, clip, encode, add noise, mask and pack coordinates ``start`` to ``stop``.

    One chunk that stays in cache at a time. Returns the packed words of each term, and how many
    coordinates were clipped.
    """
    chunk, floats = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    words = np.empty(CHUNK, np.uint32)
    streams = [MaskStream(term.masks, start) for term in terms]
    masked = [Packed(term.fixed_point.bits, stop - start) for term in terms]
    outside = 0
    for first in range(start, stop, CHUNK):
        size = min(CHUNK, stop - first)
        clipped = chunk[:size]
        vector.read_checked(first, clipped)
        outside += clip_in_place(clipped, clip)
        for term, stream, packed in zip(terms, streams, masked, strict=True):
            part = words[:size]
            term.fixed_point.encode(clipped, term.weight, floats[:size], part)
            shared = noise.get(term.sum_id)
            if shared is not None:
                part += shared.draw(size).astype(np.uint32)
            stream.mask_chunk(part)
            packed.write(first - start, part)
    return masked, outside
