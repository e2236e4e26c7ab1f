"""A node that executes a job script by bash, with small programs in place of Slurm and Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.site import Site
from gemfit_launch.slurm.submit.template import Kind, render

JOB = "7"


PYTHON = """\
#!/bin/bash
echo "$@" >>{folder}/calls
case " $* " in
  *" begin "*) echo "<gemfit-answer>attempt 1 127.0.0.1 12345 1 n1</gemfit-answer>" ;;
  *" end "*) echo "<gemfit-answer>leave 0</gemfit-answer>" ;;
  *.requeue_job*) echo "<gemfit-answer>requeued</gemfit-answer>" ;;
esac
"""


SRUN = """\
#!/bin/bash
echo "srun" >>{folder}/calls
echo "$PWD: $*" >>{folder}/srun
echo "NOTE=$NOTE IFS=$(printf %q "$IFS")" >>{folder}/calls
"""


@dataclass(frozen=True)
class Node:
    """A folder in which a job script runs."""

    folder: Path
    run: RunDir

    def program(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(folder=self.folder))
        path.chmod(0o755)
        return path

    def execute(
        self,
        kind: Kind,
        *,
        setup: tuple[str, ...] = (),
        python: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Exit status of the job; its log is where Slurm would write it."""
        site = Site(
            name="test", setup=setup, env={"NOTE": "a b"}, python=python or str(self.folder / "bin/python")
        )
        plan = self.run.plan().model_copy(update={"site": site})
        script = self.folder / "job.sbatch"
        script.write_text(render(kind, plan, self.run, self.folder))
        log = self.run.root / "slurm" / f"{kind}-{JOB}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as stream:
            path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
            given = {"PATH": path, "SLURM_JOB_ID": JOB, **environment}
            done = subprocess.run(
                ["bash", str(script)], env=given, stdout=stream, stderr=stream, check=False, timeout=60
            )
        return done.returncode

    @property
    def calls(self) -> str:
        path = self.folder / "calls"
        return path.read_text() if path.is_file() else ""

    @property
    def reason(self) -> str:
        """Of the verdict, which has to be `failed`."""
        verdict = self.run.verdict()
        assert verdict is not None
        assert verdict.outcome is AttemptOutcome.FAILED
        return verdict.reason
