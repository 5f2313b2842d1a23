"""Floor 5, what a notebook uses: experiments, claims, figures, presets, execution."""
