"""What is installed, what a recipe needs, and what it will take: ``polymnia doctor [RECIPE]``."""
