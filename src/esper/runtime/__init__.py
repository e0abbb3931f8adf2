"""The wiring: tasks, presets, configuration files, assembly, the run itself.

Import the file you need; this front door holds only what reads run directories, so that commands that only
read files start fast.
"""

from esper.runtime.run_records import RUNS_ROOT, RunInfo, list_runs, read_run_info

__all__ = ["RUNS_ROOT", "RunInfo", "list_runs", "read_run_info"]
