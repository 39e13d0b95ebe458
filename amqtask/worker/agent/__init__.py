"""The agent's process, which follows the stream of verdicts, and what a node knows from it; a solo worker follows it itself."""
