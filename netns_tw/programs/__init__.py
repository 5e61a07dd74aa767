"""Floor 2: what runs on a node. Each can be run alone: ``python -m netns_tw.programs http-server --help``."""
