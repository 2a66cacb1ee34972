"""Flow records for other programs: the formats, the loop and the command behind ``kinwatch-agent flows``."""
