"""The processes of a run: how they meet, agree, watch one another and end."""
