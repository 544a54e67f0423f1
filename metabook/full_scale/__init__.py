"""Results of runs at full length, as files that say how they were made: what a chapter has no time to train."""

from metabook.full_scale.runs import Published, Run, Test, load_runs, paired, published

__all__ = ["Published", "Run", "Test", "load_runs", "paired", "published"]
