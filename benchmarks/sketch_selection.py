"""How often does a sketch change the neighbours, and what does that cost?

For each sketch size: the error of squared distances against sqrt(2/m), how often the M nearest
differ from the exact ones, the regret (mean true distance of the chosen over that of the nearest,
minus one), and the largest error of a bounded weight. On synthetic clusters of nine clients in
three groups, and on the text adapters of runs, whose members are compared as they lie in the run
folder (a run with `--method local` has adapters that were never averaged).

The second table is about the weights: how much bounding s/d below by 1/4 changes them, and the
leverage of one neighbour in the sum that a coalition of two clients sees.

    python -m benchmarks.sketch_selection
    python -m benchmarks.sketch_selection --runs runs/first runs/second --neighbours 6 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from protocols.selection import select, weight
from protocols.sketch import relative_error, sketch

Vectors = npt.NDArray[np.float32]
SIZES: tuple[int | None, ...] = (1024, 4096, 16384, 65536, None)
LENGTH, CLIENTS, GROUPS = 400_000, 9, 3


def main() -> None:
    options = _options()
    sources: dict[str, Callable[[int], Vectors]] = {
        f"clusters, within/across {ratio}, sizes ±{spread:.0%}": (
            lambda seed, r=ratio, s=spread: _clusters(r, s, seed)
        )
        for ratio in (0.8, 0.95)
        for spread in (0.0, 0.1)
    }
    if options.runs:
        adapters = [_adapters(folder) for folder in options.runs]
        sources = {
            f"adapters of {folder.name}": lambda _seed, a=vectors: a
            for folder, vectors in zip(options.runs, adapters, strict=True)
        } | sources
    for name, source in sources.items():
        _table(name, source, options)
    _weights(sources | {"clusters with a near twin": _with_twin}, options)


def _table(name: str, source: Callable[[int], Vectors], options: argparse.Namespace) -> None:
    print(f"\n{name}, {options.repeats} sketch seeds, {source(0).shape[1]} numbers")
    heading = "".join(f"{f'top-{m} same':>12}{'regret':>10}" for m in options.neighbours)
    print(f"{'sketch':>8}{'rms of d²':>11}{'law':>9}{heading}{'weight error':>14}")
    for size in SIZES:
        errors, weight_errors = [], []
        same: dict[int, list[bool]] = {m: [] for m in options.neighbours}
        regret: dict[int, list[float]] = {m: [] for m in options.neighbours}
        for seed in range(options.repeats):
            vectors = source(seed)
            if size is not None and size >= vectors.shape[1]:
                break
            true = _distances(vectors)
            key = b"benchmark" + seed.to_bytes(32, "big")
            seen = _distances(np.stack([sketch(v, key, size) for v in vectors]))
            upper = np.triu_indices(len(true), 1)
            errors.extend(seen[upper] ** 2 / true[upper] ** 2 - 1)
            weight_errors.append(np.max(np.abs(_bounded(seen) - _bounded(true))))
            for m in options.neighbours:
                for k in range(len(true)):
                    exact, chosen = _nearest(true, k, m), _nearest(seen, k, m)
                    same[m].append(exact == chosen)
                    cost = true[k, list(chosen)].mean() / true[k, list(exact)].mean() - 1
                    regret[m].append(float(cost))
        if not errors:
            continue
        law = relative_error(source(0).shape[1], size)
        columns = "".join(
            f"{np.mean(same[m]):>12.2f}{np.mean(regret[m]):>10.1e}" for m in options.neighbours
        )
        rms = float(np.sqrt(np.mean(np.square(errors))))
        print(
            f"{size or 'none':>8}{rms:>11.4f}{law:>9.4f}{columns}{np.median(weight_errors):>14.4f}"
        )


def _nearest(distances: npt.NDArray[np.float64], k: int, count: int) -> tuple[int, ...]:
    """The neighbours that the protocol's own selection takes."""
    row = {f"{j:03}": float(d) for j, d in enumerate(distances[k]) if j != k}
    return tuple(int(name) for name in select(row, count).neighbours)


def _bounded(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every client's weights over all others, as the protocol bounds them."""
    count = len(distances)
    rows = []
    for k in range(count):
        others = [float(distances[k, j]) for j in range(count) if j != k]
        rows.append([weight(min(others), d) for d in others])
    return np.array(rows)


def _weights(sources: dict[str, Callable[[int], Vectors]], options: argparse.Namespace) -> None:
    """Bounded against unbounded 1/d weights: what the bound changes and what it protects."""
    count = max(options.neighbours)
    print(f"\nweights over the {count} nearest: smallest u, share that the bound changes, and the")
    print("most that one neighbour weighs in a sum of which a coalition removes the other terms")
    print(f"{'':<46}{'least s/d':>10}{'bounded':>9}{'heaviest':>10}{'unbounded':>11}")
    for name, source in sources.items():
        rows = []
        distances = _distances(source(0))
        for k in range(len(distances)):
            near = np.array([distances[k, j] for j in _nearest(distances, k, count)])
            rows.append(near.min() / near)
        ratios = np.array(rows)
        bounded = np.clip(ratios, 0.25, 1)
        shares = [np.max(w / w.sum(axis=1, keepdims=True)) for w in (bounded, ratios)]
        changed = float(np.mean(bounded != ratios))
        print(
            f"{name[:45]:<46}{ratios.min():>10.3f}{changed:>9.2f}{shares[0]:>10.3f}{shares[1]:>11.3f}"
        )


def _distances(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.array([[np.linalg.norm(a - b) for b in wide] for a in wide])


def _clusters(ratio: float, spread: float, seed: int) -> Vectors:
    """Nine clients in three groups, LoRA-like scales per block; ratio of distances about ``ratio``.

    ``spread`` is the standard deviation of the clients' update sizes around one.
    """
    random = np.random.default_rng(seed)
    scales = np.repeat(np.exp(random.normal(0, 1, LENGTH // 1000)), 1000)
    scales *= np.exp(0.5 * random.normal(size=LENGTH))
    centres = random.normal(size=(GROUPS, LENGTH))
    own = random.normal(size=(CLIENTS, LENGTH))
    groups = np.arange(CLIENTS) % GROUPS
    vectors = np.sqrt(1 - ratio**2) * centres[groups] + ratio * own
    sizes = 1 + spread * random.normal(size=CLIENTS)
    result: Vectors = (vectors * scales * sizes[:, None]).astype(np.float32)
    return result


def _with_twin(seed: int) -> Vectors:
    """Clusters with two clients nearly equal: 1/d would leave them alone with each other."""
    vectors = _clusters(0.8, 0.0, seed)
    vectors[3] = vectors[0] + np.float32(0.02) * vectors[3]
    return vectors


def _adapters(run: Path) -> Vectors:
    """The text adapters of a run folder, [clients, D], tensors in order of name."""
    rows = []
    for path in sorted(run.rglob("adapter_model.safetensors")):
        tensors = load_file(path)
        rows.append(np.concatenate([tensors[name].ravel() for name in sorted(tensors)]))
    if len(rows) < 3:
        raise SystemExit(f"{run}: {len(rows)} text adapters, at least three are needed")
    return np.stack(rows).astype(np.float32)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders")
    parser.add_argument("--neighbours", type=int, nargs="*", default=[6, 2], help="values of M")
    parser.add_argument("--repeats", type=int, default=6, help="sketch seeds (and data seeds)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
