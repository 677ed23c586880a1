"""How many faces each photograph beside a developer's checkout shows, counted by people."""

# Faces that are cut off or turned are among them.
SHOWN = {
    "codeformer_00.jpg": 4,
    "codeformer_01.jpg": 4,
    "codeformer_02.png": 4,
    "codeformer_03.jpg": 1,
    "codeformer_04.jpg": 1,
    "codeformer_06.png": 2,
    "debate_two_faces.jpg": 2,
    "solvay_1927.png": 29,
    "vqfr_10045.png": 3,
    "vqfr_example.jpg": 3,
    "widerface_group_24.jpg": 23,
    "widerface_group_51.jpg": 8,
}
