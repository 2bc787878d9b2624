"""How one picture is drawn: from an order's prompt to latents, step by step, and to pixels."""
