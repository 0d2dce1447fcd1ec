"""What the package costs beside a bare pool, a heap and its peers: `make bench`.

Each figure is measured in a fresh process (`one.py`), contestants alternating, and compared with
the others of its round. What is compared, and what is aimed at, is in `plan.py`.
"""
