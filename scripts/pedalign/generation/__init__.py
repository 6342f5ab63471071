"""The engines that generate a tutor's replies."""
