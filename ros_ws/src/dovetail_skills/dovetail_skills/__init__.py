"""Skills: learned policies and scripted controllers behind one action type."""
