"""Tasks over skills: recipes become behaviour trees, evaluations become episodes."""
