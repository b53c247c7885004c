"""What any engine must do: the contract of ``backends/base.py``, run against each of them."""
