"""The graders of the exercises, one module per chapter: `maml.py` for `book/optimization/maml.ipynb`.

A public function `one_step(answer)` grades the exercise `maml-one-step`.  Its docstring says what a right
answer shows (it is printed), and it raises `Hint` otherwise.  `WRONG["one_step"]` lists known wrong answers,
each with the hint that it gets; a test holds the graders to it.
"""
