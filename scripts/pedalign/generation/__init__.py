"""The engines that let a tutor answer."""
