"""Which function of the model is audited: heads, the evidence for them, and the proof that nothing was lost."""
