"""Our own benchmarks: what netns_tw takes, beside public tools and the kernel's own limit on the same machine."""
