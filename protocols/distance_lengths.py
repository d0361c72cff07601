"""The public lengths of distance messages under an attempt's parameters.

Imports of the encrypted distances are made where they are needed: attempts without them do not
load the library.
"""

from __future__ import annotations

from protocols.parameters import AggregationParameters
from protocols.sketch import sketch_length


def measured_length(parameters: AggregationParameters) -> int:
    """Return the numbers of a sketch: those of the vector itself where it is short enough."""
    length = parameters.vector_lengths[parameters.distance_vector or ""]
    return sketch_length(length, parameters.sketch_size)


def distance_upload_bytes(parameters: AggregationParameters) -> int:
    """Return the exact length of an encrypted sketch."""
    name, length = parameters.distance_parameter_set, measured_length(parameters)
    if parameters.distances == "key_holder":
        from protocols.key_holder import holder_upload_length

        return holder_upload_length(name, length)
    from protocols.distances import upload_length

    return upload_length(name, length)


def distance_reply_bytes(parameters: AggregationParameters) -> int:
    """Return the exact length of one encrypted distance, before it is sealed for its peer."""
    from protocols.distances import reply_length

    return reply_length(parameters.distance_parameter_set)


def holder_keys_bytes(parameters: AggregationParameters) -> int:
    """Return the exact length of the key holder's CKKS keys."""
    from protocols.key_holder import keys_length

    return keys_length(parameters.distance_parameter_set)


def padded_list_bytes(most_neighbours: int) -> int:
    """Return the public length of a hidden neighbour list: room for the longest names."""
    return 512 + 66 * (most_neighbours + 2)
