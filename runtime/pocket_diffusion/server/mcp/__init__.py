"""An endpoint for assistants (Model Context Protocol), by the protocol's own SDK, which the extra `mcp` installs."""
