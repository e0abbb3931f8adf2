"""The wiring: tasks, presets, configuration files, assembly, the run itself. Import the file you need; this
front door stays light, so that commands that only read files start fast."""

__all__: list[str] = []
