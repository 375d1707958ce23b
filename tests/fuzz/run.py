"""Fuzzes decoders, each for a time: `python tests/fuzz/run.py frame --seconds 60`, or `all`.

With atheris where it is installed (Linux on x86-64), which follows the branches that bytes take;
else with mutations of true bytes. What reaches new branches stays in the corpus folder, if one is
named; a finding's bytes are printed, and kept in the artifacts folder. Nothing is written to the
checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

# [bytes] The longest input: every decoder has a limit that is reached with less, or by its header.
MAX_BYTES = 16_384
# [s] An input that takes longer is a finding as well.
SLOW_S = 5
INTERESTING = (b"\0", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\0\0\x80\x7f", b"{", b"[")

Target = Callable[[bytes], None]


def main() -> int:
    """Run as the command line says; the code is not 0 where there was a finding."""
    options = _options()
    if options.engine == "atheris":
        import atheris  # noqa: PLC0415 - not on every machine

        with atheris.instrument_imports(include=["codec", "transport", "agent", "aggregator"]):
            import targets  # noqa: PLC0415 - after atheris has taken its place in imports
    else:
        import targets  # noqa: PLC0415 - the same
    import seeds  # noqa: PLC0415 - the same

    chosen = list(targets.TARGETS) if options.targets == ["all"] else options.targets
    if unknown := set(chosen) - set(targets.TARGETS):
        raise SystemExit(f"no such target: {unknown}; there are {', '.join(targets.TARGETS)}")
    scratch = Path(tempfile.mkdtemp(prefix="fedfstq-fuzz-"))
    try:
        if options.replay:
            targets.TARGETS[chosen[0]](options.replay.read_bytes())
            return 0
        engine = _follow_branches if options.engine == "atheris" else _mutate
        failed = 0
        for name in chosen:
            artifacts = (options.artifacts or scratch / "artifacts") / name
            corpus = (options.corpus or scratch / "corpus") / name
            for folder in (artifacts, corpus):
                folder.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(f"{name}: {options.seconds:g} s with {options.engine}\n")
            sys.stdout.flush()
            engine(targets.TARGETS[name], seeds.seeds(name), options, corpus=corpus, kept=artifacts)
            failed += _report(name, artifacts)
        return min(failed, 1)
    finally:
        shutil.rmtree(scratch)
        shutil.rmtree(targets.scratch().parent, ignore_errors=True)


def _options() -> argparse.Namespace:
    assert __doc__ is not None
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", help="names of targets.TARGETS, or all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each")
    parser.add_argument("--corpus", type=Path, help="where inputs that reach new branches are kept")
    parser.add_argument("--artifacts", type=Path, help="where inputs with findings are written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, help="give this one input to the target")
    parser.add_argument(
        "--engine",
        choices=["atheris", "mutations"],
        default="atheris" if has_atheris else "mutations",
    )
    return parser.parse_args()


def _follow_branches(
    target: Target,
    seeds: tuple[bytes, ...],
    options: argparse.Namespace,
    *,
    corpus: Path,
    kept: Path,
) -> None:
    import atheris  # noqa: PLC0415 - not on every machine

    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(options.seconds))}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SLOW_S}",
        f"-seed={options.seed}",
        f"-artifact_prefix={kept}/",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        str(corpus),
    ]
    # libFuzzer ends its process, so that it gets one of its own for each target.
    child = os.fork()
    if child == 0:
        atheris.Setup(arguments, target)
        atheris.Fuzz()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status and not any(kept.iterdir()):
        (kept / "no-input").write_bytes(b"")  # it ended without saying on which input


def _mutate(
    target: Target,
    seeds: tuple[bytes, ...],
    options: argparse.Namespace,
    *,
    corpus: Path,  # noqa: ARG001 - every engine has one
    kept: Path,
) -> None:
    end = time.monotonic() + options.seconds
    for raw in _inputs(seeds, random.Random(options.seed)):
        started = time.process_time()
        try:
            target(raw)
            assert time.process_time() - started < SLOW_S, "too slow"
        except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
            traceback.print_exc()
            (kept / "finding").write_bytes(raw)
            return
        if time.monotonic() >= end:
            return


def _inputs(seeds: tuple[bytes, ...], rng: random.Random) -> Iterator[bytes]:
    """Yield the seeds, then mixtures of them with faults, for ever."""
    yield b""
    yield from seeds
    while True:
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _damage(raw, rng, other=rng.choice(seeds))
        yield bytes(raw[:MAX_BYTES])


def _damage(raw: bytearray, rng: random.Random, *, other: bytes) -> None:
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(7):
        case 0 if at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(raw):
            raw[at] = rng.randrange(256)
        case 2:
            raw[at:at] = rng.choice(INTERESTING)
        case 3:
            some = rng.choice(INTERESTING)
            raw[at : at + len(some)] = some
        case 4:
            del raw[at : at + rng.choice((1, 2, 4, 100))]
        case 5:
            raw[at:] = other[rng.randrange(len(other) + 1) :]
        case _:
            raw[at:at] = raw[max(0, at - 16) : at]


def _report(name: str, artifacts: Path) -> int:
    """Print what was found with a target, and return how much."""
    found = sorted(artifacts.iterdir())
    for path in found:
        raw = path.read_bytes()
        sys.stdout.write(f"FOUND with {name}: {path.name}, {len(raw)} bytes: {raw[:2000]!r}\n")
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
