"""What is shipped: the wheel, the sdist and the container, used as their users use them."""
