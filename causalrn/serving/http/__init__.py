"""The HTTP server: OpenAI's completions, and sessions whose state stays here. Needs the extra `serve`."""
