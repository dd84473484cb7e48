"""One readable script per job: collect, train_beso, export, evaluate."""
