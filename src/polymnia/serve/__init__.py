"""The search API and the web page."""
