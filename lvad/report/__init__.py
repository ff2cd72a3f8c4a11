"""The files that a run writes (numbers, tables, pictures, pages), and the comparison of runs by them."""
