"""A type checker refuses each line that ends in `# error`, and no other."""

import exml
from exml.combiners import ByClass
from exml.generators import ProceduralImages
from exml.losses import Distillation, MeanSquaredError
from exml.normalizers import CenterLogits
from exml.priors import L2Norm

empty = exml.StrategyBuilder()
empty.build()  # error

no_training = (
    empty.generator(ProceduralImages()).combiner(ByClass()).buffer(exml.buffers.Cumulative(10)).loss(MeanSquaredError())
)
no_training.build()  # error
whole = no_training.training(exml.Training(iterations=1, batch_size=1, learning_rate=0.1))
whole.build()

no_loss = empty.generator(ProceduralImages()).combiner(ByClass()).buffer(exml.buffers.Cumulative(10))
no_loss.training(exml.Training(iterations=1, batch_size=1, learning_rate=0.1)).build()  # error

whole.generator(L2Norm(1.0))  # error
whole.combiner(CenterLogits())  # error
whole.normalizer(ByClass())  # error
whole.loss(ByClass())  # error
whole.buffer(ProceduralImages())  # error
whole.priors(L2Norm(1.0), Distillation())  # error
whole.priors(L2Norm)  # error
whole.student("fresh")  # error
whole.training(exml.Training(iterations=1, batch_size=1, learning_rate=0.1, optimizer="lion"))  # error
whole.training(exml.Training(batch_size=1, learning_rate=0.1))  # error
whole.sampler(1)  # error
