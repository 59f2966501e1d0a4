"""The shared ground: wire formats, topics, bundle and ring formats, configuration, runtime. No numpy, no role."""
