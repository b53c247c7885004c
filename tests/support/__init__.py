"""What several tests share: facts about the field, and builders from those facts."""
