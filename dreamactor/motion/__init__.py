"""Media in and out, landmarks, the followed person, retargeting, control maps, face crops. No torch."""
