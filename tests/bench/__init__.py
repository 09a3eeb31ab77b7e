"""The benchmark: loopnest and its peers, in one run, on one engine."""
