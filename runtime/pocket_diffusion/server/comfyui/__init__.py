"""ComfyUI's API: graphs from text, pictures and masks to pictures become orders; other nodes are refused by name."""
