"""The experiments of the LLaDA paper and of the discussion around it: each a module, a YAML file and a command."""
