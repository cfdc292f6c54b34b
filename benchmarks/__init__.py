"""What it costs, beside what others cost: `python -m benchmarks`.

One file a question, in `questions/`; a question is a set of cases, a case a race between *contenders* that do the same
work. What each contender is, and how its documentation wants it set up, stands in `contenders/`. How time is taken is
in `measuring`, how trips are counted in `counting`. What comes out is a list of `results.Row`s: `report` prints them,
`plots` draws them, `pages` writes docs/benchmarks.md, `compare` holds two runs against each other.
"""
