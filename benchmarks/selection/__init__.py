"""Which weights are better? Several files and peers on the same clips at three sizes, and a rule that says which one is shipped."""
