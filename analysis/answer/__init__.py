"""From a finished search to one model: rules that choose or combine trials, and scores corrected for it."""
