"""The command: find the best way to fine-tune an image classifier on labelled images.

Flags become a plan, the plan a study, the study a search. Running the same line again continues the study.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cluster.jobs.flags import check_job_folders
from cluster.ray_tune.resources import describe_unused_gpus
from cluster.study.config import AUTO_BACKBONES, StudyConfig
from cluster.study.environment_lines import follow_environment
from cluster.study.flags import parse_flags
from cluster.study.job_environment import in_job
from contract.environment import prepare_process
from contract.stop_signals import stopping_like_ctrl_c
from wiring.budget import plan_time
from wiring.early_start import start_ray_early
from wiring.ends import fail, interrupted
from wiring.plan import console, fetch_all_weights, make_plan, print_plan, say


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that the study ended badly, 2 that the flags are wrong, 130 interrupted."""
    prepare_process()
    with stopping_like_ctrl_c():
        return start(parse_flags(argv))


def start(config: StudyConfig) -> int:
    """Plan and run what the flags say; returns the exit code."""
    try:
        check_job_folders(config)
        config, lines = follow_environment(config, os.environ)
        for line in lines:
            print(line, file=sys.stderr)
        if in_job():
            say(f"in a Ray job: searching on its cluster, with the study in {config.directory}")
        if unused := describe_unused_gpus(config):
            print(unused, file=sys.stderr)
        plan, lines = plan_time(make_plan(config))
        if config.dry_run:
            if AUTO_BACKBONES in plan.config.backbones:
                from wiring.backbone_choice import preview_backbones

                preview_backbones(plan)
            print_plan(plan, console, lines=lines)
            return 0
        say("\n".join(lines))
        plan = fetch_all_weights(plan)
        started = start_ray_early(plan)
        # These imports take a second, in which Ray starts.
        from wiring.study_run import run_plan
    except (ValueError, OSError) as error:
        return fail(error, code=2)
    except KeyboardInterrupt:
        return interrupted()
    return run_plan(plan, started)


if __name__ == "__main__":
    sys.exit(main())
