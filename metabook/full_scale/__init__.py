"""Results of runs at full length, as files that say how they were made: what a chapter has no time to train."""

from metabook.full_scale.runs import Run, Test, load_runs

__all__ = ["Run", "Test", "load_runs"]
