"""Results of runs at full length, as files that say how they were made: what a chapter has no time to train."""

from metabook.full_scale.digits import DigitRun, load_digit_runs
from metabook.full_scale.runs import Published, Run, Test, load_runs, paired, published

__all__ = ["DigitRun", "Published", "Run", "Test", "load_digit_runs", "load_runs", "paired", "published"]
