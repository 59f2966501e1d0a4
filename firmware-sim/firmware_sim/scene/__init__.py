"""What a fleet is and what befalls it: scenarios (TOML), and the plan drawn from one. Pure: nothing here flies or sends."""
