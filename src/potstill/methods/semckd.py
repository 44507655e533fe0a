from potstill.methods.base import Preset

PRESET = Preset(
    name="semckd",
    loss="potstill.losses.semckd:SemCKD",
    year=2021,
    compares="all pairs of maps, weighted by learned likeness",
    at="stages",
    weight=400.0,
    weight_source="400 on CIFAR-100 beside KD 1 and cross-entropy 1, 50 on ImageNet: the authors' scripts",
    use_when="nets of unlike depth: every student stage may learn from every teacher stage",
    notes=(
        "The authors' attention is as wide as the batch; here it reads the maps' averages, so any batch will do. "
        "The weight is tied to the scale of the teacher's maps, whose squared distance it weighs: 400 diverged at learning "
        "rate 0.05 with a teacher whose maps have a mean square of 2.4, where 100 trained. "
        "The projectors have 0.85 billion parameters for four student stages and a ResNet-50 teacher."
    ),
)
