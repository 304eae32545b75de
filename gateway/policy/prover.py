"""Proves the claims of a bundle in a process of its own, so that a gateway that reloads goes on answering.

`python -m gateway.policy.prover` reads the bundle's files from standard input and writes the revision that it
proved and a problem for each claim that does not hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from typing import Final

from gateway.policy.load import Loaded, compile_files
from gateway.policy.problems import PolicyInvalid, Problem
from gateway.policy.proof import prove
from gateway.policy.source.directory import Files

TIMEOUT_S: Final = 60.0
REMEMBERED: Final = 16  # revisions: whoever goes back to one does not wait for its proof again


class Prover:
    """Remembers what it has proven by revision, for as long as this process lives, and on no disk: a file
    would be one more thing that could turn a refused bundle into a loaded one, and no request waits for a
    proof."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._proven: OrderedDict[str, tuple[Problem, ...]] = OrderedDict()

    def __call__(self, files: Files, loaded: Loaded) -> tuple[Problem, ...]:
        """A problem for each claim that does not hold. Raises PolicyInvalid where that cannot be told."""
        if not loaded.claims:
            return ()
        revision = files.revision
        if revision not in self._proven:
            self._proven[revision] = prove_apart(files, self._timeout_s)
            while len(self._proven) > REMEMBERED:
                self._proven.popitem(last=False)
        return self._proven[revision]


def prove_apart(files: Files, timeout_s: float) -> tuple[Problem, ...]:
    """A problem for each claim of these files that does not hold, from another process.

    It imports from where this one does. Raises PolicyInvalid when it says nothing within `timeout_s`, ends
    otherwise, or answers about other files: what is not proven does not hold.
    """
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path)
    try:
        done = subprocess.run(  # noqa: S603 (this very module, by this very interpreter)
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps({name: content.decode() for name, content in files.content.items()}).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            timeout=timeout_s,
            check=True,
        )
        said = json.loads(done.stdout)
        problems = tuple(Problem(**problem) for problem in said["problems"])
    except subprocess.TimeoutExpired:
        raise unproven(f"the claims were not proven within {timeout_s:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise unproven(f"the claims could not be proven, exit status {error.returncode}: {last}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unproven(f"the claims could not be proven: {error}") from error
    if said["revision"] != files.revision:
        raise unproven("the claims of another revision were proven")
    return problems


def unproven(message: str) -> PolicyInvalid:
    hint = "run `douane policy prove` on the bundle; split rules or claims if it takes too long"
    return PolicyInvalid([Problem("claims.yaml", 0, None, message, hint)])


def main() -> None:
    files = Files({name: text.encode() for name, text in json.load(sys.stdin).items()})
    loaded = compile_files(files)
    problems = prove(loaded.bundle, loaded.claims).problems()
    said = {"revision": loaded.bundle.revision, "problems": [problem.wire() for problem in problems]}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
