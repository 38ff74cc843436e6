"""Enhances a prompt before it is submitted: a language model, else rules, else the prompt as it was written.

`orchestrator` is the order of the steps; the endpoint stands in `gateway.enhance_prompt`.
"""
